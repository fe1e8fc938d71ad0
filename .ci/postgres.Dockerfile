# Make the stand-in for postgres like the public image: it can be started as its own user, the owner of its volume.
ARG IMAGE
FROM ${IMAGE} AS standin
FROM scratch
COPY --from=standin / /
RUN sed -i 's/setpriv .*--init-groups //' /usr/local/bin/docker-entrypoint.sh \
 && install --directory --owner postgres --group postgres --mode 1777 /var/lib/postgresql
ENV PGDATA=/var/lib/postgresql/18/docker
VOLUME /var/lib/postgresql
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

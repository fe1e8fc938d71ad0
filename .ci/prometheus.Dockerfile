# A stand-in for prom/prometheus, with the user, the folder and the entry point of the public image. The context is a
# folder with the executable.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
COPY prometheus /bin/prometheus
RUN install --directory --owner nobody --group nogroup --mode 755 /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]

# A stand-in for jaegertracing/jaeger, with the user, the entry point and the volume of the public image. The context is a
# folder with the executable.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
COPY jaeger /cmd/jaeger/jaeger-linux
USER 10001:10001
VOLUME /tmp
ENTRYPOINT ["/cmd/jaeger/jaeger-linux"]

# The stand-in for jaegertracing/jaeger with the volume that the public image declares.
ARG IMAGE
FROM ${IMAGE}
VOLUME /tmp

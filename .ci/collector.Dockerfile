# A stand-in for otel/opentelemetry-collector-contrib, with the user and the entry point of the public image. The context
# is a folder with the executable.
FROM scratch
COPY otelcol-contrib /otelcol-contrib
USER 10001:10001
ENTRYPOINT ["/otelcol-contrib"]
CMD ["--config", "/etc/otelcol-contrib/config.yaml"]

# One image for every Python process; which one it runs is its command.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
COPY requirements/services.txt /requirements.txt
RUN python -m venv /venv && /venv/bin/pip install --quiet --no-cache-dir --require-hashes -r /requirements.txt

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10000 --no-create-home waybill
COPY --from=dependencies /venv /venv
WORKDIR /app
COPY telemetry telemetry
COPY chassis chassis
COPY exhibition exhibition
COPY services services
COPY deploy/docker/prepare.py deploy/docker/
COPY deploy/opensearch_retention.py deploy/
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER waybill

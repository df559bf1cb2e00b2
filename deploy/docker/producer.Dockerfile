# The `arno` command and Flower, without torch. Build from the root of the repository:
#   docker build -f deploy/docker/producer.Dockerfile -t arno-producer:dev .
ARG PYTHON_IMAGE=python:3.11.17-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# PIP_CONSTRAINT and not -c: it also pins what builds the wheel; newer pips read that from PIP_BUILD_CONSTRAINT.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/arno/bin:$PATH
RUN python -m venv /opt/arno
COPY pyproject.toml constraints.txt deploy/docker/requirements.py ./
RUN python requirements.py parquet flower http > requirements.txt && pip install -r requirements.txt
COPY README.md LICENSE ./
COPY shared shared
COPY producer producer
COPY workers workers
RUN pip install --no-deps .

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /var/lib/arno arno
COPY --from=build /opt/arno /opt/arno
ENV PATH=/opt/arno/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/arno
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
ENTRYPOINT ["arno"]

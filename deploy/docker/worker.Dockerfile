# The worker, with torch and the bundled model. Build from the root of the repository:
#   docker build -f deploy/docker/worker.Dockerfile -t arno-worker:dev .
# On x86-64 Linux the package index holds torch for CUDA, which also runs on a CPU but weighs several GB more.
# For a smaller image without CUDA, name the index of CPU builds that PyTorch's installation page shows:
#   --build-arg TORCH_INDEX_URL=…
ARG PYTHON_IMAGE=python:3.11.17-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX_URL=
WORKDIR /src
# PIP_CONSTRAINT and not -c: it also pins what builds the wheel; newer pips read that from PIP_BUILD_CONSTRAINT.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/arno/bin:$PATH
RUN python -m venv /opt/arno
COPY pyproject.toml constraints.txt deploy/docker/requirements.py ./
RUN python requirements.py parquet worker > requirements.txt \
    && pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r requirements.txt
COPY README.md LICENSE ./
COPY shared shared
COPY producer producer
COPY workers workers
RUN pip install --no-deps .

FROM ${PYTHON_IMAGE}
# Triton, and torch's compiler with it, build a launcher in C for each kernel when a worker on CUDA starts: with gcc, the
# C library's headers, which gcc alone does not bring, and Python's, which the image has. Debian's versions move.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# Models that are not bundled and compiled kernels are kept under /var/cache/arno: mount a volume there.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/arno arno \
    && install -d -o arno -g arno /var/cache/arno
COPY --from=build /opt/arno /opt/arno
COPY deploy/docker/worker_answers.py /opt/arno/
ENV PATH=/opt/arno/bin:$PATH PYTHONUNBUFFERED=1 \
    ARNO_WORKER__MODEL_CACHE=/var/cache/arno/models \
    HF_HOME=/var/cache/arno/huggingface \
    TRITON_CACHE_DIR=/var/cache/arno/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/arno/inductor
WORKDIR /var/lib/arno
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
# The start leaves time to fetch and load a large model.
HEALTHCHECK --interval=30s --timeout=20s --start-period=300s --retries=3 \
    CMD ["python", "/opt/arno/worker_answers.py"]
ENTRYPOINT ["arno-worker"]

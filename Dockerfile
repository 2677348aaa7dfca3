# deepseg on CPUs; as a BIDS app with --entrypoint deepseg-bids. GPUs: TORCH=torch, which brings CUDA.
ARG PYTHON=3.12-slim
FROM python:${PYTHON} AS builder
ARG TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
ENV PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY setup.cfg pyproject.toml README.md LICENSE constraints.txt ./
# Word splitting is meant: TORCH is a package with its options.
# hadolint ignore=SC2086
RUN python -m venv /opt/deepseg && /opt/deepseg/bin/pip install --constraint constraints.txt $TORCH
COPY deepseg deepseg
RUN /opt/deepseg/bin/pip install --constraint constraints.txt '.[plot,dicom]'

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="deepseg" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --create-home --uid 1000 deepseg
COPY --from=builder /opt/deepseg /opt/deepseg
ENV PATH=/opt/deepseg/bin:$PATH MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /data
ENTRYPOINT ["deepseg"]

# syntax=docker/dockerfile:1
# One image for gateway and worker: `docker build .` for AMD GPUs, `docker build --build-arg DEVICE=cpu .` without one.
# The published weights are not in it; they are mounted at /models (the small demo model is part of the package).
# What is in it is listed in /usr/share/emmdit/sbom.cdx.json. How to move to newer bases: docs/deploy.md.
ARG DEVICE=rocm
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG PYTHON_DIGEST=sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84
ARG ROCM_IMAGE=rocm/pytorch:rocm10.0_ubuntu24.04_py3.12_pytorch_release_2.13.0
ARG ROCM_DIGEST=sha256:bbdaba66029f905321be3bbc95206a2d9a56a2bc5300877d146ad24d40db9a12

# What to install, told by two files alone: layers that install it outlive changes to the code.
FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST} AS lock
WORKDIR /lock
COPY pyproject.toml constraints.txt ./
# With the extras that a setting can ask for: pictures in S3, pictures that are signed.
RUN ["python3", "-c", "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; extras = [line for extra in ('c2pa', 's3', 'tracing') for line in project['optional-dependencies'].get(extra, [])]; print(*project['dependencies'], *extras, sep='\\n', file=open('requirements.txt', 'w'))"]

FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST} AS package
WORKDIR /source
COPY . .
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

# The bases: a Python that has its device's PyTorch.
FROM ${ROCM_IMAGE}@${ROCM_DIGEST} AS base-rocm
ARG ROCM_IMAGE
ARG ROCM_DIGEST
LABEL org.opencontainers.image.base.name="${ROCM_IMAGE}" \
    org.opencontainers.image.base.digest="${ROCM_DIGEST}"

FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST} AS base-cpu
ARG PYTHON_IMAGE
ARG PYTHON_DIGEST
LABEL org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
    org.opencontainers.image.base.digest="${PYTHON_DIGEST}"
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m pip install --no-cache-dir --no-deps --index-url ${TORCH_INDEX} torch==2.13.0

# hadolint ignore=DL3006
FROM base-${DEVICE} AS installed
# hadolint ignore=DL3002
USER 0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY --from=lock /lock/ /tmp/lock/
# What the base has of PyTorch is a constraint too, and is compared afterwards: pip would replace a ROCm build by a
# CUDA one without a word.
RUN python3 -m pip list --format=freeze | grep -iE '^(torch|torchvision|torchaudio|triton|pytorch-triton)[a-z-]*==' > /tmp/torch.txt \
    && python3 -m pip install --no-cache-dir --constraint /tmp/lock/constraints.txt --constraint /tmp/torch.txt \
        --requirement /tmp/lock/requirements.txt \
    && python3 -m pip list --format=freeze | grep -iE '^(torch|torchvision|torchaudio|triton|pytorch-triton)[a-z-]*==' | diff /tmp/torch.txt - \
    && rm -r /tmp/lock /tmp/torch.txt
RUN --mount=from=package,source=/wheel,target=/wheel \
    python3 -m pip install --no-cache-dir --no-deps /wheel/*.whl && emmdit --help > /dev/null

# The list of Python packages that are really there. Its maker lies beside them, in a stage of its own, and is not listed.
FROM installed AS sbom
RUN --mount=from=lock,source=/lock,target=/lock \
    python3 -m pip install --no-cache-dir --constraint /lock/constraints.txt --target /sbom-maker cyclonedx-bom
RUN python3 -c "import runpy, sys; sys.path.insert(0, '/sbom-maker'); runpy.run_module('cyclonedx_py', run_name='__main__')" \
        environment --output-reproducible --spec-version 1.6 --output-format JSON --output-file /sbom.cdx.json "$(command -v python3)"

FROM installed AS runtime
COPY --from=sbom /sbom.cdx.json /usr/share/emmdit/sbom.cdx.json
# Everything that is written goes to /data (or /tmp), so that the root can be read-only; libraries that keep caches in
# the home directory find it there too.
RUN groupadd --gid 10001 emmdit \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /data --shell /usr/sbin/nologin emmdit \
    && install --directory --owner=10001 --group=10001 --mode=0750 /data \
    && install --directory /models
ENV HOME=/data \
    EMMDIT_DATA_DIR=/data \
    EMMDIT_MODELS_DIR=/models \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Last, because REVISION changes with every commit. Whoever builds says it: --build-arg REVISION="$(git rev-parse HEAD)"
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="emmdit" \
    org.opencontainers.image.description="HTTP image generation with AMD's E-MMDiT (Nitro-E)" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.source="${SOURCE}"
# Of the gateway; a worker's container says its own.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('EMMDIT_PORT', '8000') + '/livez', timeout=2)"]
ENTRYPOINT ["emmdit"]
CMD ["serve"]

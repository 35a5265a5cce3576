# cellmill in one image: the locked environment of requirements.lock and the workflow; docs/cluster.md says how to use it.
#   docker build -t cellmill .
#   docker build -t cellmill:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu128 .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/cellmill
# What the environment is made from, so that an edit elsewhere does not make it again.
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY src/cellmill/__init__.py src/cellmill/
# Where torch comes from besides the package index: builds for the CPU, a tenth of the size of those for NVIDIA GPUs.
ARG TORCH=https://download.pytorch.org/whl/cpu
RUN PIP_EXTRA_INDEX_URL="${TORCH}" PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 make setup
COPY . .
RUN .venv/bin/python -m compileall -q src && chmod -R a+rX .

FROM python:${PYTHON}
COPY --from=build /opt/cellmill /opt/cellmill
# Caches of libraries: any user may run the image, with or without a home.
ENV PATH=/opt/cellmill/.venv/bin:$PATH \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    XDG_CACHE_HOME=/tmp/cache
RUN useradd --uid 1000 --create-home cellmill
USER 1000
# The folder with config/, where results/ will be.
WORKDIR /project
ENTRYPOINT ["snakemake", "--snakefile", "/opt/cellmill/Snakefile", "--profile", "/opt/cellmill/profiles/local"]

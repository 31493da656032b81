# `anytime serve` as an image; see docs/how-to/containers.md.
#
#   docker build -t anytime-ar .
#   docker build -t anytime-ar:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .

FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN python -m venv /opt/anytime
ENV PATH=/opt/anytime/bin:$PATH
WORKDIR /build

# torch comes first and alone, at its pin, as in the Makefile. To pip, a build that says what it is for
# (2.13.0+cpu) is newer than the plain one of the same version; every later step leaves it as it is.
COPY requirements requirements
RUN pip install --constraint requirements/core.txt --extra-index-url "$TORCH_INDEX" torch
RUN pip install --requirement requirements/core.txt

# Of the tests' lock, which pins what serving needs as well, nothing else is installed.
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY release release

# A kernel for each instruction set that a processor may have where the image runs. The compiler stays
# behind.
RUN pip install --target /opt/zig --constraint requirements/dev.txt ziglang \
    && export PYTHONPATH=src:/opt/zig \
    && python release/kernels.py "$(python -c 'from anytime_ar.kernel.loading import this_platform; print(this_platform())')"
RUN pip install --no-build-isolation --constraint requirements/test.txt '.[serve,hub,audio]' && pip check


FROM python:3.11-slim-bookworm

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /cache anytime \
    && install --directory --owner anytime --group anytime /cache

COPY --from=build /opt/anytime /opt/anytime

# Nothing is written but under /cache: what was measured, models from the Hub, and what is needed for a
# while. All of it can be had again.
ENV PATH=/opt/anytime/bin:$PATH \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    TMPDIR=/cache
VOLUME /cache

# By number: Kubernetes cannot tell from a name that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# http.client, unlike urllib, asks no proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 CMD ["python", "-c", "import http.client, sys; pulse = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); pulse.request('GET', '/livez'); sys.exit(pulse.getresponse().status != 200)"]

ENTRYPOINT ["anytime", "serve"]
CMD ["mnist", "--host", "0.0.0.0"]

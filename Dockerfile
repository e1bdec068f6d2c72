# syntax=docker/dockerfile:1
# `docker build -t qorzen-obs .` makes an image that runs as nobody in particular and writes nowhere but /tmp and its volume.

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python -m venv /opt/qorzen
COPY requirements.lock ./
RUN /opt/qorzen/bin/pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY qorzen_obs ./qorzen_obs
COPY dashboards ./dashboards
# What only the build needs does not come along; pip goes last.
RUN /opt/qorzen/bin/pip install --no-deps --no-build-isolation . \
    && /opt/qorzen/bin/pip uninstall --yes hatchling editables trove-classifiers pluggy pathspec packaging tomlkit \
    && /opt/qorzen/bin/pip uninstall --yes pip

FROM python:3.13-slim-trixie
# Fixed numbers, so that another container can be given the group: it may read the token.
RUN groupadd --gid 10001 qorzen \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin qorzen \
    && install --directory --owner=10001 --group=10001 --mode=0750 /run/qorzen \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/qorzen
COPY --from=build /opt/qorzen /opt/qorzen
# Reachable from other containers, so never without a token: without that file it does not start and says so.
# hadolint ignore=DL3064 # the path of the token, not the token
ENV PATH=/opt/qorzen/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    QORZEN_SERVER__HOST=0.0.0.0 \
    QORZEN_SERVER__TOKEN_FILE=/run/qorzen/token
USER 10001:10001
WORKDIR /srv
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s --retries=3 CMD ["qorzen-obs", "health"]
ENTRYPOINT ["qorzen-obs"]
# Nothing fails in it: all files of Python's library that do not parse are in test folders, which this image has not.
CMD ["demo"]

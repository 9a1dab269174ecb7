# One image for release, web, callbacks and worker: the command decides which. docs/deployment/container.md explains it.
# It was tested on Python 3.11. Before production, pin the two base images by their digests.

FROM python:3.11-slim-bookworm AS base

FROM base AS build
RUN python -m venv --without-pip /venv
COPY deploy/requirements-product.lock /requirements.lock
RUN python -m pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --require-hashes --no-deps --only-binary :all: -r /requirements.lock

FROM base AS service
# Nothing in the running image installs or builds anything.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip \
    && groupadd --gid 10001 mkwanja \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mkwanja
COPY --from=build /venv /venv
WORKDIR /app
COPY alembic.ini ./
COPY alembic alembic
COPY domain domain
COPY gateway gateway
COPY workers workers
# The root file system may be read-only, so the code is compiled here.
RUN python -m compileall -q alembic domain gateway workers
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8080), timeout=3); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "gateway", "ingress"]

# PostgreSQL's programs and ours, for backups: docker build --target backup.
FROM postgres:18-bookworm AS backup
COPY deploy/requirements-product.lock /requirements.lock
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip \
    && python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore --target /packages \
    --require-hashes --no-deps --only-binary :all: -r /requirements.lock \
    && apt-get purge --yes --autoremove python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY --from=service /app /app
WORKDIR /app
ENV PYTHONPATH=/packages PYTHONDONTWRITEBYTECODE=1
USER postgres
ENTRYPOINT ["python3", "-m", "workers.backup"]
CMD ["--help"]

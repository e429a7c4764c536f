# The firsttoken image: the locked runtime and the compiled router (docs/compiled.md) in a virtual environment, run by an
# unprivileged user. PYTHON is 3.13 or newer: each is faster than the one before.
#
# Mount a file at /etc/firsttoken/endpoints.yaml: without one the router does not start. `serve --host 0.0.0.0 --example` as
# the command starts the example in the package instead.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
# Dependencies first: this layer stays in the build cache until the lock changes.
COPY requirements.lock /src/
RUN python -m venv --without-pip /opt/firsttoken \
 && pip --python /opt/firsttoken/bin/python install --require-hashes --requirement /src/requirements.lock
# The compiler and the locked mypyc stay in this stage.
COPY requirements-compile.lock /src/
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && python -m venv --without-pip /opt/compile \
 && pip --python /opt/compile/bin/python install --require-hashes --requirement /src/requirements-compile.lock
COPY pyproject.toml hatch_build.py README.md LICENSE endpoints.yaml /src/
COPY router /src/router
# The runtime's lock holds the build backend too, which is removed; `pip check` fails if the runtime needs any part of it.
RUN FIRSTTOKEN_COMPILE=1 pip --python /opt/compile/bin/python wheel --no-deps --no-build-isolation --wheel-dir /dist /src \
 && pip --python /opt/firsttoken/bin/python install --no-deps /dist/*.whl \
 && pip --python /opt/firsttoken/bin/python uninstall --yes hatchling packaging pathspec pluggy tomlkit trove-classifiers \
 && pip --python /opt/firsttoken/bin/python check

FROM python:${PYTHON}-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 firsttoken \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin firsttoken
COPY --from=build /opt/firsttoken /opt/firsttoken
ENV PATH=/opt/firsttoken/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /etc/firsttoken
USER 10001:10001
EXPOSE 8080
# The check ignores proxies that the environment sets for endpoints. It uses FIRSTTOKEN_PORT if that is a plain number,
# as settings.py does; container runtimes may set it to an address such as tcp://10.0.0.1:9000.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import os; from urllib.request import ProxyHandler, build_opener; port = os.environ.get('FIRSTTOKEN_PORT', ''); build_opener(ProxyHandler({})).open(f'http://127.0.0.1:{port if port.isdigit() else 8080}/healthz', timeout=2)"]
# SIGTERM drains: calls in flight may take up to FIRSTTOKEN_DRAIN (120 s) to end, so run the container with
# --stop-timeout 125 instead of Docker's default of 10 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["firsttoken"]
CMD ["serve", "--host", "0.0.0.0"]

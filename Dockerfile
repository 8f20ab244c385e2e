# One image for every role. `docker build -t tocsin .`; compose.yaml runs it on one machine, packaging/compose.roles.yaml with roles apart.
FROM python:3.11-slim AS build
RUN python -m venv /opt/tocsin
WORKDIR /build
COPY requirements.lock ./
RUN /opt/tocsin/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/tocsin/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tocsin \
 && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=build /opt/tocsin /opt/tocsin
ENV PATH=/opt/tocsin/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME /data
EXPOSE 8100
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=120s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8100/healthz', timeout=5)"]
ENTRYPOINT ["tocsin"]
CMD ["serve", "--data", "/data", "--host", "0.0.0.0"]

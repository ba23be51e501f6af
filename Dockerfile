# The wheel is built in a first stage; the image holds its installation and no build tool.
FROM python:3.13-slim AS build
WORKDIR /src
COPY locks/server.txt locks/server.txt
# What is served from is what was looked at: nothing whose hash is not in the lock file is installed. What traces need is
# among it; nothing of that is loaded unless OTEL_EXPORTER_OTLP_ENDPOINT or the like names a collector.
RUN python -m venv /opt/runtimestore \
    && /opt/runtimestore/bin/pip install --no-cache-dir --require-hashes --requirement locks/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
COPY migrations migrations
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/runtimestore/bin/pip install --no-cache-dir --no-deps /wheels/runtimestore-*.whl \
    && /opt/runtimestore/bin/pip check

FROM python:3.13-slim
# A fixed number, so that a volume's files keep their owner over images.
RUN useradd --system --uid 10001 --home-dir /var/lib/runtimestore --create-home runtimestore
COPY --from=build /opt/runtimestore /opt/runtimestore
# Two allocator arenas: one a thread, glibc's default, keeps much more memory than the server uses. Huge pages, where the
# kernel has them: a copy of a large document, during which no other call comes on, takes a fourth of the time.
ENV PATH=/opt/runtimestore/bin:$PATH \
    MALLOC_ARENA_MAX=2 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    RUNTIMESTORE_LISTEN=0.0.0.0:50051 \
    RUNTIMESTORE_DATABASE_URL=sqlite:////var/lib/runtimestore/runtimestore.db
USER 10001
# The SQLite file. Keep it on a local disk: SQLite's locks do not hold on a network file system.
VOLUME /var/lib/runtimestore
WORKDIR /var/lib/runtimestore
EXPOSE 50051 9464
# The server drains on SIGTERM: calls in flight finish, then it exits with 0.
STOPSIGNAL SIGTERM
# It asks where the settings say that `serve` listens: set RUNTIMESTORE_LISTEN or RUNTIMESTORE_CONFIG, not a flag.
# Where that speaks TLS, RUNTIMESTORE_CLIENT_TLS_CA names the CA, as in compose.secure.yml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["runtimestore", "health"]
ENTRYPOINT ["runtimestore"]
# In a container a server must listen on more than loopback, and who reaches that is decided where the port is published:
# on 127.0.0.1, unless TLS and an access file are given. A command of one's own is closed again, as serve is anywhere.
CMD ["serve", "--insecure"]

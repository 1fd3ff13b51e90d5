# The image of worker, mirror and Flower; docker-compose.yml says which command each runs.

FROM python:3.12-slim AS build
WORKDIR /build
COPY requirements/run.txt .
RUN python -m venv /opt/orch \
 && /opt/orch/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r run.txt
COPY pyproject.toml README.md LICENSE ./
COPY orchestrator orchestrator
COPY tasks tasks
COPY providers providers
RUN /opt/orch/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
 && /opt/orch/bin/python -m compileall -q /opt/orch/lib \
 && /opt/orch/bin/pip uninstall --yes --quiet pip

FROM python:3.12-slim
RUN useradd --uid 10001 --user-group --create-home orch && install -d -o orch -g orch /runs
COPY --from=build /opt/orch /opt/orch
ENV PATH=/opt/orch/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORCH_RUNS_DIR=/runs
WORKDIR /home/orch
USER orch
CMD ["orch", "worker"]

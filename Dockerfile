# A worker, or a producer: the stepflow distribution and the examples, run by a user without rights.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/stepflow
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY broker broker
COPY sdk sdk
COPY workers workers
COPY cli cli
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/stepflow/bin/pip install --no-cache-dir /wheels/*.whl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home stepflow
COPY --from=build /opt/stepflow /opt/stepflow
ENV PATH="/opt/stepflow/bin:$PATH" PYTHONUNBUFFERED=1
WORKDIR /app
COPY examples examples
USER stepflow
STOPSIGNAL SIGTERM
CMD ["stepflow-worker", "examples.census.flow:app"]

# dependencies -> weights -> app; the base is fixed by its digest (python:3.11-slim-bookworm).
ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt setup.cfg pyproject.toml README.md LICENSE /src/
COPY bids_stroke/__init__.py /src/bids_stroke/
WORKDIR /src
# The package is a shell here, so that this layer is kept while only our code changes.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --constraint constraints.txt torch '.[hdbet1]' \
    && /opt/venv/bin/pip uninstall --yes bids_stroke

FROM dependencies AS weights
# HD-BET 1 and deepbet bring theirs as packages; a site adds others here or mounts --models-dir.
COPY bids_stroke/data/models /opt/weights

FROM dependencies AS build
COPY . /src
COPY --from=weights /opt/weights /src/bids_stroke/data/models
RUN /opt/venv/bin/pip install --no-deps .

FROM ${BASE} AS app
ARG VERSION=unknown
LABEL org.opencontainers.image.title="bids_stroke" \
      org.opencontainers.image.description="Finds stroke lesions in T1w and FLAIR MRI. Research use only." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/venv /opt/venv
RUN echo "${VERSION}" > /version \
    && useradd --create-home --uid 1000 stroke
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 NO_ET=1 \
    BIDS_STROKE_CONTAINER=docker:bids_stroke:${VERSION}
USER stroke
WORKDIR /tmp
ENTRYPOINT ["/opt/venv/bin/bids_stroke"]

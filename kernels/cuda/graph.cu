// CUDA graphs for clients whose language binding has none. The static runtime here and the caller share the device's
// primary context, so the caller's stream and pointers are valid.
#include "device.cuh"

using florence::device::status_of;

int florence_graph_begin(void* stream) {
  FLORENCE_REQUIRE("graph_begin", stream);
  return status_of(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal));
}

int florence_graph_end(void* stream, void** graph, uint64_t* nodes) {
  FLORENCE_REQUIRE("graph_end", stream, graph, nodes);
  *graph = nullptr;
  *nodes = 0;
  cudaGraph_t captured = nullptr;
  FLORENCE_TRY(status_of(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &captured)));
  size_t count = 0;
  cudaGraphExec_t executable = nullptr;
  int status = status_of(cudaGraphGetNodes(captured, nullptr, &count));
  if (status == FLORENCE_OK) status = status_of(cudaGraphInstantiate(&executable, captured, 0));
  cudaGraphDestroy(captured);
  if (status != FLORENCE_OK) return status;
  *graph = executable;
  *nodes = count;
  return FLORENCE_OK;
}

int florence_graph_abort(void* stream) {
  FLORENCE_REQUIRE("graph_abort", stream);
  cudaGraph_t captured = nullptr;
  // Ending a broken capture reports why it broke, which the caller knows.
  cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &captured);
  if (captured != nullptr) cudaGraphDestroy(captured);
  cudaGetLastError();
  return FLORENCE_OK;
}

int florence_graph_upload(void* graph, void* stream) {
  FLORENCE_REQUIRE("graph_upload", graph, stream);
  return status_of(cudaGraphUpload(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)));
}

int florence_graph_launch(void* graph, void* stream) {
  FLORENCE_REQUIRE("graph_launch", graph, stream);
  return status_of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)));
}

int florence_graph_destroy(void* graph) {
  FLORENCE_REQUIRE("graph_destroy", graph);
  return status_of(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
}

// The calls of the CUDA driver that driver.py makes, on the host. Every kernel copies: (to, from, bytes as uint). A call
// that a driver would refuse gives a status. With NVIDIA's cuda.h the compiler checks the signatures.
#include <stdlib.h>
#include <string.h>
#if __has_include(<cuda.h>)
#include <cuda.h>
#undef cuEventElapsedTime
#else
typedef int CUresult, CUdevice;
typedef unsigned long long CUdeviceptr;
typedef void *CUcontext, *CUmodule, *CUfunction, *CUstream, *CUgraph, *CUgraphExec, *CUevent;
typedef int CUdevice_attribute, CUfunction_attribute, CUstreamCaptureMode;
#endif

enum { MOST = 64 };
struct copy {
  char* to;
  const char* from;
  unsigned bytes;
};
static struct copy graph[MOST];
static int captured = -1, held = 0, retained = 0, launches = 0, cubins = 0;

int stand_in_launches(void) { return launches; }
int stand_in_held(void) { return held; }

CUresult cuInit(unsigned flags) { return flags; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, 0; }
CUresult cuDeviceGet(CUdevice* device, int number) { return *device = 7, number; }
CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  strncpy(name, "stand-in", (size_t)length);
  return device != 7;
}
CUresult cuDriverGetVersion(int* version) { return *version = 13020, 0; }
CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) { return *bytes = 1000, device != 7; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 132;
  return device != 7;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = (CUcontext)&retained;
  retained++;
  return device != 7;
}
CUresult cuCtxSetCurrent(CUcontext context) { return context != (CUcontext)&retained; }
CUresult cuGetErrorString(CUresult status, const char** text) { return *text = "refused", !status; }

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  void* got = aligned_alloc(256, (bytes + 255) / 256 * 256);
  *address = (CUdeviceptr)(size_t)got;
  held++;
  return !got || !bytes;
}
CUresult cuMemFree_v2(CUdeviceptr address) { return free((void*)(size_t)address), held--, 0; }
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  return memcpy((void*)(size_t)to, from, bytes), captured >= 0;
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  return memcpy(to, (void*)(size_t)from, bytes), captured >= 0;
}

CUresult cuModuleLoadData(CUmodule* module, const void* cubin) {
  *module = (CUmodule)&cubins;
  cubins++;
  return strcmp((const char*)cubin, "a cubin") != 0;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  *function = (CUfunction)&launches;
  return module != (CUmodule)&cubins || strcmp(name, "entry") != 0;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  *value = attribute == 4 ? 40 : attribute == 3 ? 8 : -1;
  return function != (CUfunction)&launches;
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) { return *stream = (CUstream)&captured, flags; }
CUresult cuStreamSynchronize(CUstream stream) { return stream != (CUstream)&captured || captured >= 0; }
CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c,
                        unsigned shared, CUstream stream, void** arguments, void** extra) {
  if (function != (CUfunction)&launches || stream != (CUstream)&captured || extra || shared) return 1;
  if (x * y * z != 24 || a * b * c != 30 || a != 5) return 1;  // a launch of (2, 3, 4) blocks of (5, 6, 1)
  struct copy one = {*(char**)arguments[0], *(char**)arguments[1], *(unsigned*)arguments[2]};
  if (captured >= 0) return captured < MOST ? graph[captured++] = one, 0 : 1;
  memcpy(one.to, one.from, one.bytes);
  launches++;
  return 0;
}
CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  int was = captured;
  captured = 0;
  return stream != (CUstream)&captured || was >= 0 || mode != 0;
}
static int size;
CUresult cuStreamEndCapture(CUstream stream, CUgraph* made) {
  size = captured;
  captured = -1;
  *made = (CUgraph)graph;
  return stream != (CUstream)&captured || size < 0;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph made, unsigned long long flags) {
  *executable = (CUgraphExec)&size;
  return made != (CUgraph)graph || flags;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  for (int i = 0; i < size; i++) memcpy(graph[i].to, graph[i].from, graph[i].bytes), launches++;
  return executable != (CUgraphExec)&size || stream != (CUstream)&captured;
}
CUresult cuGraphExecDestroy(CUgraphExec executable) { return executable != (CUgraphExec)&size; }
CUresult cuGraphDestroy(CUgraph made) { return made != (CUgraph)graph; }

static int events[2], created = 0, recorded = 0;
CUresult cuEventCreate(CUevent* event, unsigned flags) { return *event = (CUevent)&events[created++ % 2], flags; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
  *(int*)event = ++recorded;
  return stream != (CUstream)&captured;
}
CUresult cuEventSynchronize(CUevent event) { return *(int*)event != recorded; }
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  *milliseconds = (float)(*(int*)end - *(int*)start);
  return 0;
}
CUresult cuEventDestroy_v2(CUevent event) { return event != (CUevent)&events[0] && event != (CUevent)&events[1]; }

extern "C" __attribute__((visibility("default"))) int gptoss_cpu_version() { return 1; }

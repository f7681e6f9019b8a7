// The machine that the runner runs on: architecture, CPU features, threads.
#ifndef TVM_IOVT_RUNTIME_MACHINE_H_
#define TVM_IOVT_RUNTIME_MACHINE_H_

#include <sched.h>
#include <sys/auxv.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace iovt {

#if defined(__x86_64__)
const char* const kArch = "x86_64";
#elif defined(__aarch64__)
const char* const kArch = "aarch64";
#elif defined(__arm__)
const char* const kArch = "armv7l";
#else
#error "an architecture that bundles do not name"
#endif

// CPU flags in the spelling of /proc/cpuinfo.
inline std::set<std::string> CpuFeatures() {
  std::set<std::string> features;
  auto add = [&features](unsigned long mask, const char* names) {
    std::istringstream stream(names);
    std::string name;
    for (int bit = 0; stream >> name; ++bit) {
      if (mask >> bit & 1) features.insert(name);
    }
  };
#if defined(__aarch64__)
  // Bit order of Linux's arch/arm64/include/uapi/asm/hwcap.h, names of /proc/cpuinfo.
  add(getauxval(AT_HWCAP),
      "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
      "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca "
      "pacg");
  add(getauxval(AT_HWCAP2),
      "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm "
      "svef64mm svebf16 i8mm bf16 dgh rng bti mte");
#elif defined(__arm__)
  // arch/arm/include/uapi/asm/hwcap.h
  add(getauxval(AT_HWCAP),
      "swp half thumb 26bit fastmult fpa vfp edsp java iwmmxt crunch thumbee neon vfpv3 vfpv3d16 "
      "tls vfpv4 idiva idivt vfpd32 lpae evtstrm");
  add(getauxval(AT_HWCAP2), "aes pmull sha1 sha2 crc32");
#else
  (void)add;
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.compare(0, 5, "flags") != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) features.insert(word);
    break;
  }
#endif
  return features;
}

// Sets TVM's variables before its thread pool starts, as tvm_iovt/runtime/threads.py does.
inline void ChooseThreads(int64_t threads) {
  if (threads > 0) setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
  setenv("TVM_THREAD_POOL_SPIN_COUNT", "10000", 0);
#if defined(__x86_64__)
  setenv("TVM_BIND_THREADS", "0", 0);
  cpu_set_t usable;
  if (getenv("OMP_NUM_THREADS") || sched_getaffinity(0, sizeof(usable), &usable) != 0) return;
  std::set<std::string> cores;  // hyper-threads of one core name the same siblings
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &usable)) continue;
    std::string name = "/sys/devices/system/cpu/cpu" + std::to_string(cpu);
    std::ifstream file(name + "/topology/thread_siblings_list");
    if (std::string siblings; std::getline(file, siblings)) name = siblings;
    cores.insert(name);
  }
  setenv("TVM_NUM_THREADS", std::to_string(cores.size()).c_str(), 0);
#endif
}

}  // namespace iovt

#endif  // TVM_IOVT_RUNTIME_MACHINE_H_

// What guest RAM is made of on the host.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_BACKING_H_
#define UNDERFOOT_VMM_BACKING_H_

#include <cstdint>
#include <string_view>

namespace underfoot {

enum class Backing : uint8_t {
  kAnon,   // private anonymous memory: a dropped page has lost its content
  kMemfd,  // shared memfd: a dropped page table entry keeps it, a punched hole does not
};

constexpr std::string_view BackingName(Backing backing) {
  return backing == Backing::kAnon ? "anon" : "memfd";
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BACKING_H_

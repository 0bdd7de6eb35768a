#include "vmm/hooks/mapping.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/base/newer_kernels.h"

namespace underfoot::hooks {
namespace {

// A system call that does not change errno. Returns its result, or -errno.
template <class... Arguments>
long Quietly(long number, Arguments... arguments) {
  const int errno_before = errno;
  const long result = syscall(number, arguments...);
  const long outcome = result == -1 ? -errno : result;
  errno = errno_before;
  return outcome;
}

}  // namespace

MappingQuery::MappingQuery()
    : maps_(static_cast<int>(
          Quietly(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0))) {}

MappingQuery::~MappingQuery() {
  if (maps_ >= 0) Quietly(SYS_close, maps_);
}

MappingQuery::Answer MappingQuery::FindFrom(Hva at, Mapping* mapping) const {
  newer::ProcmapQuery query{};
  query.size = sizeof(query);
  query.query_flags = newer::kProcmapCoveringOrNext;
  query.query_addr = at.value;
  const long result =
      maps_ < 0 ? -ENOENT - 1 : Quietly(SYS_ioctl, maps_, newer::kProcmapQuery, &query);
  if (result == -ENOENT) return Answer::kNone;
  if (result < 0) return Answer::kUnknown;
  mapping->hvas = {{query.vma_start}, {query.vma_end}};
  mapping->page_size = query.vma_page_size;
  constexpr uint64_t kReadWrite = newer::kProcmapVmaReadable | newer::kProcmapVmaWritable;
  mapping->read_write = (query.vma_flags & kReadWrite) == kReadWrite;
  mapping->has_file = query.inode != 0;
  mapping->file = {makedev(query.dev_major, query.dev_minor), query.inode};
  mapping->file_offset = query.vma_offset;
  return Answer::kFound;
}

uint64_t PageSizeAt(Hva at) {
  const MappingQuery query;
  Mapping mapping;
  switch (query.FindFrom(at, &mapping)) {
    case MappingQuery::Answer::kFound:
      return mapping.hvas.begin <= at ? mapping.page_size : kPageSize;
    case MappingQuery::Answer::kNone:
      return kPageSize;
    case MappingQuery::Answer::kUnknown:
      break;
  }
  // The kernel refuses this advice for huge pages (and for locked ones), and it changes no page.
  const bool refused = Quietly(SYS_madvise, at.value, kPageSize, MADV_COLD) == -EINVAL;
  return refused ? kLargestPage : kPageSize;
}

uint64_t PageSizeOf(int fd) {
  struct statfs file_system {};
  if (Quietly(SYS_fstatfs, fd, &file_system) != 0) return kPageSize;
  const auto type = static_cast<uint64_t>(file_system.f_type);
  return type == HUGETLBFS_MAGIC ? static_cast<uint64_t>(file_system.f_bsize) : kPageSize;
}

}  // namespace underfoot::hooks

// Named places inside a protocol at which a race test stops a thread. The test thereby forces an
// interleaving and does not depend on timing. Only the testing build of the library
// (UNDERFOOT_TESTING) contains them; elsewhere the macro does nothing.
//
// After: the sync points of RocksDB.

#ifndef UNDERFOOT_MMU_BASE_SYNC_POINT_H_
#define UNDERFOOT_MMU_BASE_SYNC_POINT_H_

#ifdef UNDERFOOT_TESTING

#include <functional>
#include <string_view>

namespace underfoot {

// Thread safety: any thread. The callback runs on the thread that reaches the point.
void SetSyncPoint(std::string_view name, std::function<void()> callback);
void ClearSyncPoints();
void PassSyncPoint(std::string_view name);

}  // namespace underfoot

#define UNDERFOOT_SYNC_POINT(name) ::underfoot::PassSyncPoint(name)

#else

#define UNDERFOOT_SYNC_POINT(name) static_cast<void>(0)

#endif

#endif  // UNDERFOOT_MMU_BASE_SYNC_POINT_H_

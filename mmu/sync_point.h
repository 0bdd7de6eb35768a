// Named places inside a protocol where a race test stops a thread, so that an interleaving is
// forced and not hoped for. Only the testing build of the library (UNDERFOOT_TESTING) contains
// them.

#ifndef UNDERFOOT_MMU_SYNC_POINT_H_
#define UNDERFOOT_MMU_SYNC_POINT_H_

#ifdef UNDERFOOT_TESTING

#include <functional>
#include <string_view>

namespace underfoot {

// Thread safety: any thread. A callback runs on the thread that passes the point.
void SetSyncPoint(std::string_view name, std::function<void()> callback);
void ClearSyncPoints();
void PassSyncPoint(std::string_view name);

}  // namespace underfoot

#define UNDERFOOT_SYNC_POINT(name) ::underfoot::PassSyncPoint(name)

#else

#define UNDERFOOT_SYNC_POINT(name) static_cast<void>(0)

#endif

#endif  // UNDERFOOT_MMU_SYNC_POINT_H_

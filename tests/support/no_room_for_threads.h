// While it lives no thread can be started in this process: each would get a stack that no address
// space has room for. So pthread_create says EAGAIN, as under a limit.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_SUPPORT_NO_ROOM_FOR_THREADS_H_
#define UNDERFOOT_TESTS_SUPPORT_NO_ROOM_FOR_THREADS_H_

#include <pthread.h>

#include <cstddef>

namespace underfoot::testing {

class NoRoomForThreads {
 public:
  NoRoomForThreads() {
    pthread_attr_t huge;
    pthread_getattr_default_np(&before_);
    pthread_getattr_default_np(&huge);
    pthread_attr_setstacksize(&huge, size_t{1} << 47);
    pthread_setattr_default_np(&huge);
    pthread_attr_destroy(&huge);
  }
  ~NoRoomForThreads() {
    pthread_setattr_default_np(&before_);
    pthread_attr_destroy(&before_);
  }
  NoRoomForThreads(const NoRoomForThreads&) = delete;
  NoRoomForThreads& operator=(const NoRoomForThreads&) = delete;

 private:
  pthread_attr_t before_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_NO_ROOM_FOR_THREADS_H_

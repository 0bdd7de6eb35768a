// Announces to ThreadSanitizer what absl's synchronization promises; see absl_tsan.cmake.
//
// Each wrapper adds a release before what lets another thread in and an acquire after what let this
// one in. A reader's unlock releases too, since the next writer comes after it. That two readers
// are then ordered as well hides nothing: neither may write.

#include <absl/synchronization/mutex.h>
#include <absl/synchronization/notification.h>
#include <absl/time/time.h>
#include <sanitizer/tsan_interface.h>

using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Notification;
using absl::Time;

// The names are the linker's (--wrap), and a member function is called like a function of `this`.
#define UNDERFOOT_WRAP(result, symbol, ...) \
  result __real_##symbol(__VA_ARGS__);      \
  result __wrap_##symbol(__VA_ARGS__);      \
  result __wrap_##symbol(__VA_ARGS__)

namespace {

// A condition is evaluated by the thread that holds the lock, often by the thread that is just
// unlocking and has released already. So its evaluation is a critical section of its own.
struct Watched {
  const Condition& condition;
  Mutex* mutex;
};

bool EvaluateWatched(Watched* watched) {
  __tsan_acquire(watched->mutex);
  const bool met = watched->condition.Eval();
  __tsan_release(watched->mutex);
  return met;
}

}  // namespace

extern "C" {

UNDERFOOT_WRAP(void, _ZN4absl7debian35Mutex4LockEv, Mutex* mutex) {
  __real__ZN4absl7debian35Mutex4LockEv(mutex);
  __tsan_acquire(mutex);
}

UNDERFOOT_WRAP(void, _ZN4absl7debian35Mutex6UnlockEv, Mutex* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian35Mutex6UnlockEv(mutex);
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian35Mutex7TryLockEv, Mutex* mutex) {
  const bool locked = __real__ZN4absl7debian35Mutex7TryLockEv(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}

UNDERFOOT_WRAP(void, _ZN4absl7debian35Mutex10ReaderLockEv, Mutex* mutex) {
  __real__ZN4absl7debian35Mutex10ReaderLockEv(mutex);
  __tsan_acquire(mutex);
}

UNDERFOOT_WRAP(void, _ZN4absl7debian35Mutex12ReaderUnlockEv, Mutex* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian35Mutex12ReaderUnlockEv(mutex);
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian35Mutex13ReaderTryLockEv, Mutex* mutex) {
  const bool locked = __real__ZN4absl7debian35Mutex13ReaderTryLockEv(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}

UNDERFOOT_WRAP(void, _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE, Mutex* mutex,
               const Condition& condition) {
  Watched watched{condition, mutex};
  __tsan_release(mutex);
  __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(mutex,
                                                        Condition(&EvaluateWatched, &watched));
  __tsan_acquire(mutex);
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE,
               Mutex* mutex, const Condition& condition, Duration timeout) {
  Watched watched{condition, mutex};
  __tsan_release(mutex);
  const bool met = __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
      mutex, Condition(&EvaluateWatched, &watched), timeout);
  __tsan_acquire(mutex);
  return met;
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE,
               Mutex* mutex, const Condition& condition, Time deadline) {
  Watched watched{condition, mutex};
  __tsan_release(mutex);
  const bool met = __real__ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE(
      mutex, Condition(&EvaluateWatched, &watched), deadline);
  __tsan_acquire(mutex);
  return met;
}

UNDERFOOT_WRAP(void, _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE, Mutex* mutex,
               const Condition& condition) {
  Watched watched{condition, mutex};
  __real__ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE(mutex,
                                                           Condition(&EvaluateWatched, &watched));
  __tsan_acquire(mutex);
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE,
               Mutex* mutex, const Condition& condition, Duration timeout) {
  Watched watched{condition, mutex};
  const bool met =
      __real__ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE(
          mutex, Condition(&EvaluateWatched, &watched), timeout);
  __tsan_acquire(mutex);
  return met;
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE,
               Mutex* mutex, const Condition& condition, Time deadline) {
  Watched watched{condition, mutex};
  const bool met = __real__ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE(
      mutex, Condition(&EvaluateWatched, &watched), deadline);
  __tsan_acquire(mutex);
  return met;
}

UNDERFOOT_WRAP(void, _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE, CondVar* variable, Mutex* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian37CondVar4WaitEPNS0_5MutexE(variable, mutex);
  __tsan_acquire(mutex);
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE,
               CondVar* variable, Mutex* mutex, Duration timeout) {
  __tsan_release(mutex);
  const bool timed_out =
      __real__ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE(variable, mutex,
                                                                                  timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

UNDERFOOT_WRAP(bool, _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE,
               CondVar* variable, Mutex* mutex, Time deadline) {
  __tsan_release(mutex);
  const bool timed_out = __real__ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE(
      variable, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

UNDERFOOT_WRAP(void, _ZN4absl7debian312Notification6NotifyEv, Notification* notification) {
  __tsan_release(notification);
  __real__ZN4absl7debian312Notification6NotifyEv(notification);
}

UNDERFOOT_WRAP(void, _ZNK4absl7debian312Notification19WaitForNotificationEv,
               Notification* notification) {
  __real__ZNK4absl7debian312Notification19WaitForNotificationEv(notification);
  __tsan_acquire(notification);
}

UNDERFOOT_WRAP(bool, _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
               Notification* notification, Duration timeout) {
  const bool notified =
      __real__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
          notification, timeout);
  if (notified) __tsan_acquire(notification);
  return notified;
}

UNDERFOOT_WRAP(bool, _ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE,
               Notification* notification, Time deadline) {
  const bool notified =
      __real__ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE(
          notification, deadline);
  if (notified) __tsan_acquire(notification);
  return notified;
}

}  // extern "C"

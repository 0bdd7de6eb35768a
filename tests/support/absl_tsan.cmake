# Debian's libabsl is not instrumented, so ThreadSanitizer sees no order between an Unlock and the
# next Lock and would report every field that an absl::Mutex guards. The linker sends our own calls
# through wrappers (absl_tsan.cc) that state the order.
set(UNDERFOOT_ABSL_WRAPPED
  _ZN4absl7debian35Mutex4LockEv
  _ZN4absl7debian35Mutex6UnlockEv
  _ZN4absl7debian35Mutex7TryLockEv
  _ZN4absl7debian35Mutex10ReaderLockEv
  _ZN4absl7debian35Mutex12ReaderUnlockEv
  _ZN4absl7debian35Mutex13ReaderTryLockEv
  _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE
  _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
  _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE
  _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE
  _ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE
  _ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE
  _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE
  _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE
  _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE
  _ZN4absl7debian312Notification6NotifyEv
  _ZNK4absl7debian312Notification19WaitForNotificationEv
  _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE
  _ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE)

# Who uses an absl::Mutex links absl::synchronization, and so the wrappers.
# It speaks to the runtime itself, and is not instrumented like what it wraps.
add_library(underfoot_absl_tsan STATIC absl_tsan.cc)
target_compile_options(underfoot_absl_tsan PRIVATE -fno-sanitize=thread)
set_property(TARGET absl::synchronization APPEND PROPERTY
  INTERFACE_LINK_LIBRARIES underfoot_absl_tsan)
foreach(symbol IN LISTS UNDERFOOT_ABSL_WRAPPED)
  set_property(TARGET absl::synchronization APPEND PROPERTY
    INTERFACE_LINK_OPTIONS LINKER:--wrap=${symbol})
endforeach()

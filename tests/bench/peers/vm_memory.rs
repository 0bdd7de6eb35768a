//! rust-vmm's vm-memory behind a C interface, so that peers.cc measures it in turns with ours. The loops
//! are in here, where the compiler can inline the look-ups.
//!
//! Thread safety: one thread.

use std::hint::black_box;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

/// `count` regions of `bytes` each, at the addresses of `starts`. Null if they cannot be mapped.
#[no_mangle]
pub unsafe extern "C" fn peer_open(starts: *const u64, count: usize, bytes: usize) -> *mut GuestMemoryMmap {
    let ranges: Vec<(GuestAddress, usize)> = std::slice::from_raw_parts(starts, count)
        .iter()
        .map(|start| (GuestAddress(*start), bytes))
        .collect();
    match GuestMemoryMmap::from_ranges(&ranges) {
        Ok(memory) => Box::into_raw(Box::new(memory)),
        Err(_) => std::ptr::null_mut(),
    }
}

#[no_mangle]
pub unsafe extern "C" fn peer_close(memory: *mut GuestMemoryMmap) {
    drop(Box::from_raw(memory));
}

/// Finds the region of each address. Returns how many were found.
#[no_mangle]
pub unsafe extern "C" fn peer_find(memory: *const GuestMemoryMmap, addresses: *const u64, count: usize) -> usize {
    let memory = &*memory;
    let mut found = 0;
    for address in std::slice::from_raw_parts(addresses, count) {
        if let Some(region) = memory.find_region(GuestAddress(*address)) {
            black_box(region.start_addr());
            found += 1;
        }
    }
    found
}

/// Reads eight bytes at each address. Returns how many could be read.
#[no_mangle]
pub unsafe extern "C" fn peer_read(memory: *const GuestMemoryMmap, addresses: *const u64, count: usize) -> usize {
    let memory = &*memory;
    let mut read = 0;
    for address in std::slice::from_raw_parts(addresses, count) {
        if let Ok(word) = memory.read_obj::<u64>(GuestAddress(*address)) {
            black_box(word);
            read += 1;
        }
    }
    read
}

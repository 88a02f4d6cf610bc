//! A hint to the CPU: this memory will be read soon.

/// Asks for the cache line at which `place` starts. It reads nothing, so it is right whatever is there; where there is no
/// such instruction it does nothing.
#[inline]
pub(crate) fn prefetch_read<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        let address = std::ptr::from_ref(place).cast::<i8>();
        // SAFETY: the instruction is part of SSE, which every x86-64 CPU has. It never faults and changes nothing that a
        // program could see; the address is that of a reference and so valid in any case.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

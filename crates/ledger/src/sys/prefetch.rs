//! Prefetching: a hint to the CPU that memory will be read soon.

/// Prefetches the cache line that contains the first byte of `value`. Does nothing on CPUs other than x86-64.
#[inline]
pub(crate) fn prefetch_read<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        let address = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: every x86-64 CPU has SSE, which includes this instruction. The instruction never faults and changes
        // nothing that a program can observe. The address is valid, because it is the address of a reference.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::hint::black_box(value);
}

"""The memory that a piece of code needs, from the allocator's own events."""

from torch.profiler import ProfilerActivity, profile


def peak_bytes(run):
    """Largest sum of live allocations during ``run``, temporaries inside operators included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak

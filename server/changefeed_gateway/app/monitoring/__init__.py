"""What a gateway shows of itself: metrics, health over HTTP, traces. It alone knows their libraries."""

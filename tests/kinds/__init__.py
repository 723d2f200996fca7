"""Models whose memory is not a plain KV cache: sliding windows, recurrent states, and both in one."""

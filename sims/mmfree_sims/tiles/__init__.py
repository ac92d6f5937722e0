"""What engines of many processes share: tiles, packets, boards, the host. Knows no engine."""

package network

// Burst is how many bits may pass at once under a limit of rate bits a second: an eighth of a second's, and at
// least what two of the kernel's largest segments have, which otherwise would never pass; but no more than the
// kernel's clock of a token bucket can count.
func Burst(rate uint64) uint64 {
	const least, most, seconds = 2 * 64 << 10 * 8, 1 << 31, 200
	return min(max(rate/8, least), rate*seconds, most)
}

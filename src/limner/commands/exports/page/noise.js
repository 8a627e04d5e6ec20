// Limner's random numbers, so that a seed paints the same picture here as in limner itself.
//
// A stream is SplitMix64 (Steele, Lea, Flood 2014), with numbers computed from their position.
// Normal numbers use the Box-Muller transform. See limner.contract.noise.

const MASK = (1n << 64n) - 1n;
const GAMMA = 0x9e3779b97f4a7c15n;
const SAMPLING = -1n; // the purpose

function mix(z) {
  z = (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n & MASK;
  z = (z ^ (z >> 27n)) * 0x94d049bb133111ebn & MASK;
  return z ^ (z >> 31n);
}

export class Noise {
  /** @param {number} seed of the picture */
  constructor(seed) {
    const key = mix((BigInt(seed) + GAMMA) & MASK);
    this.stream = mix((key + SAMPLING * GAMMA) & MASK);
    this.draws = 0n;
  }

  /** The next n 64-bit numbers. */
  bits(n) {
    const start = mix((this.stream + (this.draws + 1n) * GAMMA) & MASK);
    this.draws += 1n;
    return Array.from({ length: n }, (_, i) => mix((start + BigInt(i + 1) * GAMMA) & MASK));
  }

  /** n standard normal numbers. */
  normal(n) {
    const half = Math.ceil(n / 2);
    const values = new Float32Array(2 * half);
    this.bits(half).forEach((bits, i) => {
      const u = (Number((bits >> 40n) & 0xffffffn) + 0.5) / 2 ** 24;
      const angle = 2 * Math.PI * (Number((bits >> 8n) & 0xffffffn) / 2 ** 24);
      const radius = Math.sqrt(-2 * Math.log(u));
      values[i] = radius * Math.cos(angle);
      values[half + i] = radius * Math.sin(angle);
    });
    return values.slice(0, n);
  }

  /** n numbers in [0, 1), of 24 random bits each, or 53 for float64. */
  uniform(n, type = "float32") {
    const digits = type === "float64" ? 53 : 24;
    return Float64Array.from(
      this.bits(n),
      (bits) => Number(bits >> BigInt(64 - digits)) / 2 ** digits,
    );
  }
}

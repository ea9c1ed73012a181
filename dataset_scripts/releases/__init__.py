"""Read the benchmarks and WebPerson in the formats their authors released."""

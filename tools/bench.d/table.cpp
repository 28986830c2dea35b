#include "table.hpp"

#include <cstdio>

namespace cube::bench {

void print_header(const std::string& title) {
  std::printf("\n%-52s %6s %9s %9s %9s %9s %6s\n", (title + ", ms").c_str(), "n", "p50", "p95", "p99", "max",
              "failed");
  std::fflush(stdout);
}

void print_row(const std::string& what, const Samples& samples) {
  std::printf("%-52s %6zu %9.1f %9.1f %9.1f %9.1f %6zu\n", what.c_str(), samples.count(),
              samples.percentile(0.5), samples.percentile(0.95), samples.percentile(0.99),
              samples.percentile(1), samples.failures());
  std::fflush(stdout);
}

void complain(const Error& error) { std::fprintf(stderr, "cube-bench: %s\n", error.describe().c_str()); }

}  // namespace cube::bench

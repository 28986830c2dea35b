// What every table of cube-bench is made of: a row of durations, and the events it could not measure.
#pragma once

#include <cube/core.hpp>
#include <string>

#include "statistics.hpp"

namespace cube::bench {

void print_header(const std::string& title);
void print_row(const std::string& what, const Samples& samples);
void complain(const Error& error);

}  // namespace cube::bench

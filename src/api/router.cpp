#include "api/router.hpp"

#include <algorithm>

namespace cube::api {
namespace {

std::string_view take_segment(std::string_view& path) {
  path.remove_prefix(1);
  const std::string_view segment = path.substr(0, path.find('/'));
  path.remove_prefix(segment.size());
  return segment;
}

bool fits(std::string_view pattern, std::string_view path, std::vector<std::string_view>& parameters) {
  parameters.clear();
  while (pattern.starts_with('/') && path.starts_with('/')) {
    const std::string_view expected = take_segment(pattern), segment = take_segment(path);
    if (expected == "{}" && !segment.empty())
      parameters.push_back(segment);
    else if (expected != segment)
      return false;
  }
  return pattern.empty() && path.empty();
}

void add_method(std::string& allow, std::string_view method) {
  if (allow.find(method) != std::string::npos) return;
  if (!allow.empty()) allow += ", ";
  allow += method;
}

}  // namespace

Match find_route(std::span<const Route> routes, std::string_view method, std::string_view path) {
  if (method == "HEAD") method = "GET";
  Match match;
  std::vector<std::string_view> parameters;
  for (const Route& route : routes) {
    if (!fits(route.pattern, path, parameters)) continue;
    add_method(match.allow, route.method);
    if (match.route != nullptr || route.method != method) continue;
    match.route = &route;
    match.parameters = parameters;
  }
  if (match.allow.find("GET") != std::string::npos) add_method(match.allow, "HEAD");
  if (!match.allow.empty()) add_method(match.allow, "OPTIONS");
  return match;
}

}  // namespace cube::api

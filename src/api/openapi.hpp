// GET /openapi.json: what this server implements, as an OpenAPI 3.0 document made from three tables: the
// routes (routes.cpp), what each call takes and answers (openapi_operations.cpp), and the shapes of bodies
// (openapi_schemas.cpp). A route without an action is not in it.
//
// Types are written as
//   string integer number boolean date uuid object strings     `strings`: an object of strings
//   Sandbox                                                    a schema of the table
//   running|paused                                             one of these words
//   [T] {T} T?                                                 an array; an object of T; T or null
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "api/router.hpp"

namespace cube::api {

struct Operation {
  std::string_view method, pattern;  ///< as in the table of routes
  std::string_view summary;

  /// One a line "STATUS TYPE HEADER…": "200 Sandbox\n201 Sandbox". A type with '/' is a content type whose
  /// body is text.
  std::string_view answers;
  std::string_view problems;  ///< statuses with an Error body, beside 401 and 500
  std::string_view
      parameters;  ///< of the query "name:type"; "@name:type" is a header; '!' after the name: required
  std::string_view body;  ///< a schema; with '?' the body may be empty
};

struct Schema {
  std::string_view name;
  std::string_view members;  ///< "name:type" with spaces in between; '!' after the name: always there
  std::string_view description;
};

std::span<const Operation> documented_operations();
std::span<const Schema> documented_schemas();

/// Nothing if the tables have none.
const Operation* operation_of(const Route& route);

/// "/sandboxes/{}/logs" to "/sandboxes/{sandboxID}/logs".
std::string documented_path(std::string_view pattern);

std::string openapi_document(std::span<const Route> routes);

}  // namespace cube::api

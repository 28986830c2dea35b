// Templates as E2B's clients read them.
#pragma once

#include <cube/core.hpp>
#include <cube/template.hpp>

namespace cube::api {

/// One Template.
void write_template(JsonWriter& json, const templates::TemplateInfo& info);

}  // namespace cube::api

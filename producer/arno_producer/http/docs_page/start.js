// In a file of its own: the page allows no script that stands in it.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#operations",
  // Its badge asks a server elsewhere.
  validatorUrl: null,
});

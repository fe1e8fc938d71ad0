-- For wrk: places orders, and at the end prints what benchmarks/load.py reads.
local skus = { "TEA-ASSAM", "TEA-DARJEELING", "TEA-EARL-GREY", "TEA-GENMAICHA", "TEA-LAPSANG" }
local headers = { ["content-type"] = "application/json" }
local number = 0

request = function()
  number = number + 1
  local sku = skus[number % #skus + 1]
  return wrk.format("POST", "/orders", headers,
    '{"items":[{"sku":"' .. sku .. '","quantity":1}],"payment_token":"tok_visa"}')
end

done = function(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"orders": %d, "failed": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, failed, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end

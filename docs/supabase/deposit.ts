// supabase/functions/deposit/index.ts: makes a deposit for the signed-in user, and waits for its end.
//
// The user's own token goes on to Mkwanja, so the payment belongs to the user. The order's id is the
// idempotency key: if the app or this function repeats the request, it stays one payment.

const MKWANJA_URL = Deno.env.get("MKWANJA_URL");
const WAIT_SECONDS = 45; // less than the time limit of an Edge Function
const TRIES_MAX = 5;

Deno.serve(async (request) => {
  const { order_id, amount, phone_number } = await request.json();
  const headers = {
    "Authorization": request.headers.get("Authorization") ?? "",
    "Content-Type": "application/json",
    "X-Idempotency-Key": order_id,
  };
  const body = JSON.stringify({ amount, phone_number, metadata: { order_id } });
  const accepted = await send("/v1/deposits", { method: "POST", headers, body });
  if (accepted.status !== 202) return accepted;

  // The payment goes on without us. If it is still pending, the app may call again with the same order.
  const { id } = await accepted.json();
  return await send(`/v1/payments/${id}?wait=${WAIT_SECONDS}`, { headers });
});

// Repeats the request if Mkwanja cannot be reached or says that it may be repeated.
async function send(path, options) {
  for (let attempt = 1;; attempt += 1) {
    const answer = await fetch(MKWANJA_URL + path, options).catch(() => null);
    const isRepeatable = answer === null || answer.status === 429 || answer.status === 503;
    if (!isRepeatable || (attempt === TRIES_MAX && answer !== null)) return answer;
    if (attempt === TRIES_MAX) return new Response("Mkwanja cannot be reached", { status: 502 });
    const seconds = Number(answer?.headers.get("Retry-After") ?? attempt);
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  }
}

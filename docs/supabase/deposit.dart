// Makes a deposit of the signed-in user, and waits for its end. Needs the packages `http` and
// `supabase_flutter`.

import 'dart:convert';

import 'package:http/http.dart' as http;
import 'package:supabase_flutter/supabase_flutter.dart';

const mkwanjaUrl = String.fromEnvironment('MKWANJA_URL');

/// Returns the payment: its `status` is `success`, `failed`, or `pending` if it takes very long.
///
/// Use the order's id as [orderId], and never a new one for a retry: with the same id it stays one
/// payment.
Future<Map<String, dynamic>> deposit(String orderId, int amount, String phoneNumber) async {
  final headers = {
    'Authorization': 'Bearer ${Supabase.instance.client.auth.currentSession!.accessToken}',
    'Content-Type': 'application/json',
    'X-Idempotency-Key': orderId,
  };
  final body = jsonEncode({
    'amount': amount,
    'phone_number': phoneNumber,
    'metadata': {'order_id': orderId},
  });
  final accepted = await _send(
    () => http.post(Uri.parse('$mkwanjaUrl/v1/deposits'), headers: headers, body: body),
  );
  if (accepted.statusCode != 202) throw DepositRefused(jsonDecode(accepted.body));
  final id = jsonDecode(accepted.body)['id'];
  final ended = await _send(
    () => http.get(Uri.parse('$mkwanjaUrl/v1/payments/$id?wait=60'), headers: headers),
  );
  return jsonDecode(ended.body);
}

/// Repeats the request if the network fails, or if Mkwanja says that it may be repeated.
Future<http.Response> _send(Future<http.Response> Function() request) async {
  for (var attempt = 1;; attempt++) {
    try {
      final answer = await request();
      if (answer.statusCode != 429 && answer.statusCode != 503 || attempt == 5) return answer;
      final seconds = int.parse(answer.headers['retry-after'] ?? '$attempt');
      await Future.delayed(Duration(seconds: seconds));
    } on http.ClientException {
      if (attempt == 5) rethrow;
      await Future.delayed(Duration(seconds: attempt));
    }
  }
}

/// The request was refused. [problem] is the answer (RFC 9457): `detail` and `errors` say why.
class DepositRefused implements Exception {
  DepositRefused(this.problem);
  final Map<String, dynamic> problem;
}

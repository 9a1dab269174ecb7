"""The life of a payment, one module for each part, in order.

* `accept`: stores the payment, or cancels it while it is unsent.
* `submit`: claims the payment and sends it to Daraja.
* `record_answer`: stores Daraja's answer to a send.
* `record_callback`: stores a callback.
* `judge_report`: decides what a callback, or the answer to an inquiry, proves. `agreement` compares
  this report with the payment.
* `inquire`: inquires about the payment, or sends it again. `inquiry_changes` makes the decisions.
* `reconcile`: gives overdue payments their next step.
* `resolve`: settles a payment by an operator's decision.
* `announce`: publishes events to subscribers.
* `former_accounts`: the exceptions for payments that another account sent.
"""

FROM fluent/fluentd:v1.18.0-debian-1.0
USER root
RUN gem install --no-document fluent-plugin-s3:1.8.3 \
    && mkdir -p /var/log/fluentd/buffer \
    && chown -R fluent /var/log/fluentd
USER fluent

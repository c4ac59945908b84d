# frozen_string_literal: true

require 'json'
require 'net/http'

# The external search: which major version it is, and the index that Chef keeps there.
class Search
  ACCEPTED = { 'elasticsearch' => [2, 5, 6, 7], 'opensearch' => [1] }.freeze
  TRIES = 5
  KEYWORD = { 'type' => 'keyword', 'index' => true, 'norms' => false }.freeze
  INDEX = {
    'settings' => { 'analysis' => { 'analyzer' => { 'default' => { 'type' => 'whitespace' } } },
                    'number_of_shards' => 5, 'number_of_replicas' => 1 },
    'mappings' => { '_source' => { 'enabled' => false },
                    'properties' => {
                      'X_CHEF_database_CHEF_X' => KEYWORD, 'X_CHEF_type_CHEF_X' => KEYWORD,
                      'X_CHEF_id_CHEF_X' => KEYWORD, 'data_bag' => KEYWORD,
                      'content' => { 'type' => 'text', 'index' => true }
                    } }
  }.freeze

  def initialize(settings)
    @provider = settings.opscode_erchef['search_provider'] || 'elasticsearch'
    @url = URI((@provider == 'opensearch' && settings.at('opensearch', 'external_url')) ||
               settings.opscode_solr4['external_url'] || settings.at('elasticsearch', 'external_url'))
    @login = %w[search_auth_username search_auth_password].map { |name| settings.opscode_erchef[name] }
  end

  def check
    version = JSON.parse(patiently { ask(Net::HTTP::Get.new('/')) }.body).fetch('version').fetch('number')
    return if ACCEPTED.fetch(@provider).include?(version.to_i)

    raise Failure, "Unsupported #{@provider} version #{version}; supported are #{ACCEPTED.fetch(@provider).join(', ')}"
  end

  def make_index
    return if ask(Net::HTTP::Head.new('/chef')).is_a?(Net::HTTPSuccess)

    request = Net::HTTP::Put.new('/chef', 'Content-Type' => 'application/json')
    request.body = JSON.generate(INDEX)
    answer = patiently { ask(request) }
    return if answer.is_a?(Net::HTTPSuccess) || answer.body.include?('resource_already_exists')

    raise Failure, "the index chef could not be made: #{answer.code} #{answer.body[0, 200]}"
  end

  private

  def ask(request)
    request.basic_auth(*@login) if @provider == 'opensearch'
    http = Net::HTTP.new(@url.host, @url.port, nil)
    http.open_timeout = http.read_timeout = 30
    http.request(request)
  end

  def patiently
    tried = 0
    begin
      yield
    rescue SystemCallError, IOError, Timeout::Error => e
      tried += 1
      raise Failure, "Failed to connect to #{@provider} at #{@url}: #{e.message}" if tried == TRIES

      sleep(tried * 2)
      retry
    end
  end
end
